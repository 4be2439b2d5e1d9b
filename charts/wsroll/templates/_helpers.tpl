{{- define "wsroll.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "wsroll.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "wsroll.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "wsroll.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "wsroll.selector" -}}
app.kubernetes.io/name: {{ include "wsroll.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "wsroll.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "wsroll.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "wsroll.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "wsroll.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* A role of its own per release and namespace: two releases may share a cluster. */ -}}
{{- define "wsroll.clusterRole" -}}
{{- printf "%s-%s" .Release.Namespace (include "wsroll.fullname" .) -}}
{{- end -}}

{{- /* Not empty where the audit trail goes to a file. */ -}}
{{- define "wsroll.auditFiles" -}}
{{- range .Values.audit.sinks }}{{ if hasPrefix "file:" . }}yes{{ end }}{{ end -}}
{{- end -}}

{{- /* Not empty where an audit collector gets headers from a Secret. */ -}}
{{- define "wsroll.auditHeaders" -}}
{{- if and .Values.audit.sinks .Values.audit.headerSecret.name }}yes{{ end -}}
{{- end -}}

{{- define "wsroll.checkNamespace" -}}
{{- if and .Values.watchNamespace (ne .Values.watchNamespace .Release.Namespace) -}}
{{- fail (printf "watchNamespace is %q, but the release is in %q: install one release in each namespace that is to be served" .Values.watchNamespace .Release.Namespace) -}}
{{- end -}}
{{- end -}}
